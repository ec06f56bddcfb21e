"""Prometheus text format, as far as a test needs it."""

import re
from dataclasses import dataclass

import requests

SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Metrics:
    """One scrape: (name, labels, value) of each sample, and the declared types."""

    samples: list[tuple[str, dict[str, str], float]]
    types: dict[str, str]
    text: str

    @staticmethod
    def scrape(url: str) -> "Metrics":
        response = requests.get(url, timeout=10)
        response.raise_for_status()
        return Metrics.parse(response.text)

    @staticmethod
    def parse(text: str) -> "Metrics":
        samples, types = [], {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ", 3)
                types[name] = kind
            elif match := SAMPLE.match(line):
                samples.append((match["name"], dict(LABEL.findall(match["labels"] or "")), float(match["value"])))
        return Metrics(samples, types, text)

    def total(self, name: str, **labels: str) -> float:
        """Sum over the series that carry these labels."""
        return sum(value for found, has, value in self.samples if found == name and labels.items() <= has.items())
