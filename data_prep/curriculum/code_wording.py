"""How a function is asked for: its name, what it takes, the steps and the result.

Text only; the steps come from code_operations.py.
"""

from __future__ import annotations

NAMES = ("solve", "process", "compute", "run", "change", "work", "handle", "make", "apply", "convert", "get", "build", "f", "g", "task", "step", "main", "go",
         "answer", "func")
ASK = ("Write a function {name} that takes {takes}. It should {steps} and return {result}.",
       "Define {name}: take {takes}, {steps} and return {result}.",
       "Write a Python function {name} for {takes}: {steps}, then return {result}.",
       "I need a function called {name}. Given {takes}, {steps} and give back {result}.",
       "Code a function {name} that gets {takes}. Let it {steps}. Return {result}.",
       "Please write {name}. It takes {takes}; {steps} and return {result}.",
       "Create a function named {name} that, given {takes}, will {steps} and return {result}.",
       "Implement {name} in Python. Input: {takes}. Steps: {steps}. Output: {result}.",
       "Make a function {name}. For {takes}, {steps} and return {result}.",
       "def {name}: take {takes}, {steps}, return {result}",
       "Can you write a function {name} to {steps}? It takes {takes} and returns {result}.",
       "How would you write {name} to {steps} for {takes}? Return {result}.",
       "Python: {name} takes {takes}, must {steps} and return {result}.",
       "Write {name} so that it will {steps} for {takes} and return {result}.")
OPENERS = ("Write a function {name} that takes {takes} and returns {result}.", "Define {name}: take {takes} and return {result}.",
           "Write a Python function {name} for {takes} that returns {result}.",
           "I need a function called {name}. Given {takes}, give back {result}.", "Create a function named {name} that, given {takes}, returns {result}.",
           "Implement {name} in Python. Input: {takes}. Output: {result}.", "def {name}: take {takes}, return {result}")
JOIN = (", ", ", then ", " and ", " and then ", "; ")
