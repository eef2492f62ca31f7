"""Simulated APIs that are small enough to see through: a shop and a lamp, and what can go wrong with them."""

import os
import signal
import time

CATALOGUE = {"pear": {"price": 3}, "fig": {"price": 5}}


class Shop:
    def _load_scenario(self, scenario, long_context=False):
        self.basket = scenario.get("basket", [])
        self.money = scenario.get("money", 20)
        self.shelves = CATALOGUE
        self.shelf_labels = [f"shelf {n}" for n in range(100)] if long_context else []
        self._visits = 0

    def prices(self):
        self._visits += 1
        return {item: entry["price"] for item, entry in self.shelves.items()}

    def price(self, item):
        return self.shelves[item]["price"]

    def put(self, item, count=1):
        if item not in self.shelves:
            raise ValueError(f"no {item} here")
        self.basket += [item] * count
        return {"basket": self.basket}

    def pay(self, amount=None):
        total = sum(self.shelves[item]["price"] for item in self.basket)
        self.money -= total if amount is None else amount
        self.basket = []
        return {"left": self.money}

    def mark_up(self, item, price):
        """It changes what all shops of the module share."""
        self.shelves[item]["price"] = price
        return "marked"

    def _steal(self):
        self.money = 10**6


class Lamp:
    def __init__(self):
        self.level = 0
        self.label = ""

    def dim(self, level):
        self.level = level

    def name(self, label):
        self.label = label
        return label

    def read(self):
        return {"level": self.level, "label": self.label}

    def kinds(self):
        return {"led", "neon"}

    def tangle(self):
        self.label = []
        self.label.append(self.label)

    def blink(self, seconds):
        time.sleep(seconds)
        return "blinked"

    def burn(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def shine(self, lumen):
        return "*" * lumen

    def say(self, text):
        print(text)
        return "said"


TOY_CLASSES = {"Shop": "toy_apis:Shop", "Lamp": "toy_apis:Lamp"}
