"""Worked steps of arithmetic, column by column, as a small model can copy and carry them; the result after "####".

Pure text from numbers. Knows neither wordings nor levels (math.py).
"""

from __future__ import annotations


def answer(expression: str, steps: list[str], result: int | str) -> str:
    """A worked response: the expression, its steps, and "#### result"."""
    return "\n".join([expression, *steps, f"#### {result}"])


def add_steps(first: int, second: int) -> list[str]:
    """37+58 -> 7+8=15, 3+5+1=9: columns from the right, the carry as a third term."""
    left, right = _columns(first, second)
    steps, carry = [], 0
    for a, b in zip(left, right, strict=True):
        total = a + b + carry
        steps.append(f"{a}+{b}{'+1' if carry else ''}={total}")
        carry = total // 10
    return steps


def subtract_steps(first: int, second: int) -> list[str]:
    """52-17 -> 12-7=5, 5-1-1=3: ten borrowed where needed, the loan as a third term. first must not be below second."""
    left, right = _columns(first, second)
    steps, loan = [], 0
    for a, b in zip(left, right, strict=True):
        top = a if a >= b + loan else a + 10
        steps.append(f"{top}-{b}{'-1' if loan else ''}={top - b - loan}")
        loan = int(top != a)
    return steps


def multiply_steps(number: int, digit: int) -> list[str]:
    """34*6 -> 4*6=24, 3*6=18, 18+2=20: columns from the right, the carry added in a step of its own."""
    steps, carry = [], 0
    for place in reversed(str(number)):
        product = int(place) * digit
        steps.append(f"{place}*{digit}={product}")
        if carry:
            steps.append(f"{product}+{carry}={product + carry}")
        carry = (product + carry) // 10
    return steps


def divide_steps(number: int, digit: int) -> list[str]:
    """84/3 -> 8/3=2 r 2, 24/3=8 r 0: from the left, the remainder before the next digit."""
    steps: list[str] = []
    rest = 0
    for place in str(number):
        rest = rest * 10 + int(place)
        if rest < digit and not steps:
            continue
        steps.append(f"{rest}/{digit}={rest // digit} r {rest % digit}")
        rest %= digit
    return steps


def steps_of(first: int, sign: str, second: int) -> tuple[list[str], int]:
    """Steps and result of one operation; second is a digit for * and /."""
    if sign == "+":
        return add_steps(first, second), first + second
    if sign == "-":
        return subtract_steps(first, second), first - second
    if sign == "*":
        return multiply_steps(first, second), first * second
    return divide_steps(first, second), first // second


def instance(first: int, sign: str, second: int) -> str:
    """The key of an operation: the same for both orders of a sum or product, whatever story is told around it."""
    if sign in "+*" and first < second:
        first, second = second, first
    return f"{first}{sign}{second}"


def _carries() -> frozenset[str]:
    products = ((digit, digit * other) for digit in range(2, 10) for other in range(1, 10))
    return frozenset(instance(product, "+", carry) for digit, product in products for carry in range(1, digit))


CARRIES = _carries()  # sums that stand in worked products, as 18+2 in that of 34*6: a carry is below the digit that multiplies


def _columns(first: int, second: int) -> tuple[list[int], list[int]]:
    width = max(len(str(first)), len(str(second)))
    return ([int(place) for place in reversed(str(first).zfill(width))],
            [int(place) for place in reversed(str(second).zfill(width))])
