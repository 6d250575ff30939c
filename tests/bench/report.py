"""What all benchmarks print: the machine, tables of figures, and the goals that were reached."""

import json
import os
import pathlib
import platform
import sys


def say(text):
    print(f"  ... {text}", file=sys.stderr, flush=True)


def cpu_model():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe_machine():
    """To be called before anything is measured, for the load average."""
    told = (f"{name}={value}" for name, value in sorted(os.environ.items()))
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
        "told": " ".join(one for one in told if one.startswith(("OPENBLAS_", "OMP_"))),
        "load_average": ", ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def print_machine(machine):
    load = f"load average {machine['load_average']} before"
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {load}")


def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def markdown_table(columns, rows):
    """The first column to the left, the others to the right."""
    lines = ["| " + " | ".join(columns) + " |"]
    lines.append("|" + "|".join(["---"] + ["---:"] * (len(columns) - 1)) + "|")
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


class Table:
    """Prints figures in columns and remembers the goals among them."""

    def __init__(self, *widths):
        self.widths = widths
        self.goals = []

    def line(self, *cells):
        first, *others = cells
        text = f"{first:<{self.widths[0]}}"
        for cell, width in zip(others, self.widths[1:]):
            text += f"{cell:>{width}}"
        print(text.rstrip())

    def heading(self, text, *columns):
        print()
        self.line(text, *columns)
        print("-" * sum(self.widths))

    def goal(self, what, value, limit, at_least=False):
        """The cells for a goal, which is remembered for the summary."""
        wanted = f"{'>=' if at_least else '<='} {limit:g}"
        reached = "-"
        if value is not None:
            reached = "yes" if (value >= limit if at_least else value <= limit) else "NO"
        self.goals.append({"what": what, "value": value, "goal": wanted, "reached": reached})
        return wanted, reached

    def summary(self):
        print("\nGoals, which are meant for about 63,000 x 384:")
        for goal in self.goals:
            value = number(goal["value"], 3)
            print(f"{goal['reached']:>4}  {goal['what']}: {value} (goal {goal['goal']})")


def finish(failures, correct, json_file, everything):
    """Write all figures to the file, if one is named; the program's last line and its status."""
    if json_file:
        everything = everything | {"failures": failures}
        pathlib.Path(json_file).write_text(json.dumps(everything, indent=2) + "\n")
    print()
    if failures:
        print("FAILED:")
        for failure in failures:
            print("  " + failure.replace("\n", "\n    "))
        sys.exit(1)
    print(correct)
