"""Small functions the way people ask for them: in a few words, without a name for the function.

For training only (a drill): the exam's compositions stay unseen. Each has a check that a test of the project runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Everyday:
    """What is asked for (after "to"), the function, and an expression over it that is true."""

    ask: tuple[str, ...]
    code: str
    check: str


FORMS = ("Write a function to {ask}.", "Write a Python function to {ask}.", "Write Python code to {ask}.",
         "How do I {ask} in Python?", "python function to {ask}",
         "Can you write a function to {ask}?", "Please write a function to {ask}.", "I need Python code to {ask}.", "How can I {ask}?", "code to {ask}",
         "Write a function that can {ask}.", "Show me how to {ask} in Python.", "{ask} in python", "Help me {ask} in Python.")
THIRD_PERSON = ("Write a function that {asks}.", "Write a Python function that {asks}.", "I need a function that {asks}.", "Make a function that {asks}.",
                "Give me a Python function that {asks}.", "function that {asks}", "Create a function which {asks}.")

EVERYDAY = (
    Everyday(("reverse a string", "turn a string around", "write a string backwards"), "def reverse(s):\n    return s[::-1]", "reverse('abc') == 'cba'"),
    Everyday(("reverse a list", "turn a list around"), "def reverse(xs):\n    return xs[::-1]", "reverse([1, 2]) == [2, 1]"),
    Everyday(("add two numbers", "return the sum of two numbers", "sum two numbers"), "def add(a, b):\n    return a + b", "add(2, 3) == 5"),
    Everyday(("subtract two numbers", "return the difference of two numbers"), "def subtract(a, b):\n    return a - b", "subtract(2, 3) == -1"),
    Everyday(("multiply two numbers", "return the product of two numbers"), "def multiply(a, b):\n    return a * b", "multiply(2, 3) == 6"),
    Everyday(("divide two numbers",), "def divide(a, b):\n    return a / b", "divide(6, 3) == 2"),
    Everyday(("sum a list", "return the sum of a list", "add up a list of numbers", "return the sum of a list of numbers", "calculate the sum of a list"),
             "def total(xs):\n    return sum(xs)", "total([1, 2, 3]) == 6"),
    Everyday(("find the largest number in a list", "return the maximum of a list", "get the biggest number of a list"),
             "def largest(xs):\n    return max(xs)", "largest([3, 9, 2]) == 9"),
    Everyday(("find the smallest number in a list", "return the minimum of a list"), "def smallest(xs):\n    return min(xs)", "smallest([3, 9, 2]) == 2"),
    Everyday(("compute the average of a list", "return the mean of a list of numbers", "calculate the average"),
             "def average(xs):\n    return sum(xs) / len(xs)", "average([1, 2, 3]) == 2"),
    Everyday(("check if a number is even", "tell whether a number is even", "test if a number is even"),
             "def is_even(n):\n    return n % 2 == 0", "is_even(4) and not is_even(3)"),
    Everyday(("check if a number is odd", "tell whether a number is odd"), "def is_odd(n):\n    return n % 2 == 1", "is_odd(3) and not is_odd(4)"),
    Everyday(("check if a number is prime", "tell whether a number is prime", "test for prime numbers"),
             "def is_prime(n):\n    return n > 1 and all(n % k for k in range(2, int(n ** 0.5) + 1))",
             "[n for n in range(12) if is_prime(n)] == [2, 3, 5, 7, 11]"),
    Everyday(("check if a string is a palindrome", "tell whether a word is a palindrome", "detect a palindrome"),
             "def is_palindrome(s):\n    return s == s[::-1]", "is_palindrome('anna') and not is_palindrome('ann')"),
    Everyday(("compute the factorial of a number", "return the factorial", "calculate the factorial of n"),
             "def factorial(n):\n    return 1 if n <= 1 else n * factorial(n - 1)", "factorial(5) == 120"),
    Everyday(("compute the nth fibonacci number", "return the fibonacci number of n", "calculate the nth number of fibonacci"),
             "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
             "[fibonacci(n) for n in range(6)] == [0, 1, 1, 2, 3, 5]"),
    Everyday(("count the vowels in a string", "return the number of vowels"), "def vowels(s):\n    return sum(c in \"aeiou\" for c in s.lower())",
             "vowels('Audio x') == 4"),
    Everyday(("count the words in a string", "return the number of words in a text"),
             "def count_words(s):\n    return len(s.split())", "count_words('a b c') == 3"),
    Everyday(("count the characters in a string", "return the length of a string"), "def length(s):\n    return len(s)", "length('abc') == 3"),
    Everyday(("remove duplicates from a list", "delete repeated items of a list"),
             "def unique(xs):\n    return list(dict.fromkeys(xs))", "unique([1, 2, 1]) == [1, 2]"),
    Everyday(("sort a list", "sort a list of numbers", "put a list in order"), "def ordered(xs):\n    return sorted(xs)", "ordered([3, 1]) == [1, 3]"),
    Everyday(("sort a list in descending order", "sort a list from high to low"),
             "def ordered(xs):\n    return sorted(xs, reverse=True)", "ordered([1, 3]) == [3, 1]"),
    Everyday(("filter the even numbers of a list", "keep only the even numbers of a list", "return the even numbers of a list"),
             "def evens(xs):\n    return [x for x in xs if x % 2 == 0]", "evens([1, 2, 4]) == [2, 4]"),
    Everyday(("filter the odd numbers of a list", "keep only the odd numbers of a list"),
             "def odds(xs):\n    return [x for x in xs if x % 2 == 1]", "odds([1, 2, 3]) == [1, 3]"),
    Everyday(("square every number of a list", "return the squares of a list"),
             "def squares(xs):\n    return [x * x for x in xs]", "squares([2, 3]) == [4, 9]"),
    Everyday(("double every number of a list",), "def doubled(xs):\n    return [x * 2 for x in xs]", "doubled([2, 3]) == [4, 6]"),
    Everyday(("square a number", "return the square of a number"), "def square(n):\n    return n * n", "square(3) == 9"),
    Everyday(("double a number",), "def double(n):\n    return n * 2", "double(3) == 6"),
    Everyday(("convert a string to upper case", "make a string upper case", "uppercase a string"),
             "def upper(s):\n    return s.upper()", "upper('ab') == 'AB'"),
    Everyday(("convert a string to lower case", "lowercase a string"), "def lower(s):\n    return s.lower()", "lower('AB') == 'ab'"),
    Everyday(("split a string into words", "return the words of a sentence"), "def words(s):\n    return s.split()", "words('a b') == ['a', 'b']"),
    Everyday(("join a list of strings with spaces", "join words with spaces"), "def join(xs):\n    return \" \".join(xs)", "join(['a', 'b']) == 'a b'"),
    Everyday(("remove the spaces from a string", "strip all spaces of a string"),
             "def no_spaces(s):\n    return s.replace(\" \", \"\")", "no_spaces('a b') == 'ab'"),
    Everyday(("count the even numbers in a list",), "def count_even(xs):\n    return sum(x % 2 == 0 for x in xs)", "count_even([1, 2, 4]) == 2"),
    Everyday(("merge two lists", "join two lists", "concatenate two lists"), "def merge(a, b):\n    return a + b", "merge([1], [2]) == [1, 2]"),
    Everyday(("merge two dictionaries", "combine two dicts"), "def merge(a, b):\n    return {**a, **b}", "merge({'a': 1}, {'b': 2}) == {'a': 1, 'b': 2}"),
    Everyday(("find the larger of two numbers", "return the bigger of two numbers"), "def larger(a, b):\n    return max(a, b)", "larger(2, 3) == 3"),
    Everyday(("swap two values",), "def swap(a, b):\n    return b, a", "swap(1, 2) == (2, 1)"),
    Everyday(("print hello world", "say hello world"), "def hello():\n    print(\"Hello, world!\")", "hello() is None"),
    Everyday(("greet a person by name", "say hello to a name"), "def greet(name):\n    return f\"Hello, {name}!\"", "greet('Ada') == 'Hello, Ada!'"),
    Everyday(("count how often each letter occurs", "count each letter of a string"),
             "def count_letters(s):\n    return {c: s.count(c) for c in s}", "count_letters('aab') == {'a': 2, 'b': 1}"),
    Everyday(("convert celsius to fahrenheit",), "def fahrenheit(c):\n    return c * 9 / 5 + 32", "fahrenheit(100) == 212"),
    Everyday(("get the first item of a list", "return the first element of a list"), "def first(xs):\n    return xs[0]", "first([5, 6]) == 5"),
    Everyday(("get the last item of a list", "return the last element of a list"), "def last(xs):\n    return xs[-1]", "last([5, 6]) == 6"),
    Everyday(("check if a list is empty",), "def is_empty(xs):\n    return len(xs) == 0", "is_empty([]) and not is_empty([1])"),
    Everyday(("return the length of a list", "count the items of a list"), "def size(xs):\n    return len(xs)", "size([1, 2]) == 2"),
    Everyday(("return the absolute value of a number",), "def absolute(n):\n    return abs(n)", "absolute(-3) == 3"),
    Everyday(("sum the digits of a number", "add the digits of a number"),
             "def digit_sum(n):\n    return sum(int(c) for c in str(abs(n)))", "digit_sum(-123) == 6"),
    Everyday(("find the second largest number in a list",), "def second(xs):\n    return sorted(set(xs))[-2]", "second([4, 9, 7]) == 7"),
    Everyday(("compute the power of a number", "raise a number to a power"), "def power(a, b):\n    return a ** b", "power(2, 3) == 8"),
)


def third_person(ask: str) -> str:
    """"reverse a string" -> "reverses a string"."""
    verb, _, rest = ask.partition(" ")
    if verb.endswith(("ss", "sh", "ch", "x")):
        verb += "es"
    elif verb.endswith("y") and verb[-2] not in "aeiou":
        verb = f"{verb[:-1]}ies"
    else:
        verb += "s"
    return f"{verb} {rest}"
