"Counts of what was tried, shown at the end of a run of pytest"

from collections import Counter, defaultdict

counts = defaultdict(Counter)  # kind of test -> outcome -> how often; tests add to it


def pytest_terminal_summary(terminalreporter):
    for kind, outcomes in counts.items():
        terminalreporter.write_line(
            f"{kind}: " + ", ".join(f"{n:,} {what}" for what, n in outcomes.most_common())
        )
