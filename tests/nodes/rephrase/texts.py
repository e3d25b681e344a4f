"""Small documents of each kind, shaped like the corpus's."""

from pathlib import Path

import yaml

BASE = yaml.safe_load(Path("conf/base/parameters/rephrase.yml").read_text())["rephrase"]

CHILE = """Chile - Geography

Location: Southern South America, bordering the South Pacific Ocean, between Argentina and Peru
Geographic coordinates: 30 00 S, 71 00 W
Area, total: 756,102 sq km
Area, land: 743,812 sq km
Land boundaries, border countries: Argentina 6,691 km; Bolivia 942 km; Peru 168 km
Climate: temperate; desert in north; Mediterranean in central region; cool and damp in south
Natural resources: copper, timber, iron ore, nitrates, precious metals, molybdenum, hydropower
Irrigated land: 9,094 sq km (2022)
Population growth rate: 0.61% (2025 est.)
Background: In 1541, the Spanish established the Captaincy General of Chile. It lasted until 1810, although weak."""

PROBLEM = """Problem: Find the Greatest Common Divisor (GCD) of these numbers: 754, 576.
Solution:
754 = 1 × 576 + 178
576 = 3 × 178 + 42
178 = 4 × 42 + 10
42 = 4 × 10 + 2
10 = 5 × 2 + 0
The last remainder above zero is 2.
Answer: 2

Problem: Solve the following multiplication: 77 * 93.
Solution:
77 × 90 = 6930
77 × 3 = 231
6930 + 231 = 7161
Answer: 7161"""

DRILL = """3-0-5+1=-1
0 + 4 + 9 = 13
5 - 1 - 1 + 5: 5 - 1 = 4; 4 - 1 = 3; 3 + 5 = 8. Answer: 8
9 - 9 + 2 = 2"""

DOCSTRING = """queue.Queue.get(self, block=True, timeout=None)

Remove and return an item from the queue.

If the queue is empty, the caller waits until another thread puts an item into it. Although waiting is common, a
timeout may be specified. Exactly 2 threads are required to perform this.

>>> q.get(timeout=3)
1

class queue.Empty:"""
