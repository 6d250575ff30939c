"""The plots: small PNG files."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as pyplot  # noqa: E402

OWN, BASE, EXACT, APPROXIMATE = "#c0392b", "#2c3e50", "#7f8c8d", "#d5b27a"
LEGEND = "red: sqlite-faiss, grey: exact, sand: approximate"


def colour(name, figures, base):
    if name.startswith("sqlite-faiss"):
        return OWN
    if name == base:
        return BASE
    return EXACT if figures.contenders[name]["exact"] else APPROXIMATE


def names_with(figure, sets):
    """Those that have the figure in some set, in the order of the list."""
    names = dict.fromkeys(name for figures in sets.values() for name in figures.contenders)
    return [name for name in names if any(figure(figures, name) for figures in sets.values())]


def panels_for(sets, height):
    size = (2.2 + 2.4 * len(sets), height)
    canvas, panels = pyplot.subplots(
        1, len(sets), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for panel, name in zip(panels[0], sets):
        panel.set_title(name, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    return canvas, panels[0]


def draw_bars(path, title, unit, figure, sets, base):
    """Horizontal bars, one panel for each set, on a logarithmic axis."""
    names = list(reversed(names_with(figure, sets)))
    if not names:
        return
    canvas, panels = panels_for(sets, 1 + 0.22 * len(names))
    for panel, figures in zip(panels, sets.values()):
        for place, name in enumerate(names):
            value = figure(figures, name)
            if value:
                panel.barh(place, value, color=colour(name, figures, base), log=True)
                panel.text(value, place, f" {value:,.3g}", va="center", fontsize=6)
        panel.set_xlabel(unit, fontsize=7)
        panel.set_yticks(range(len(names)), names, fontsize=7)
        panel.margins(x=0.25)
    canvas.suptitle(f"{title}\n{LEGEND}", fontsize=8)
    save(canvas, path)


def draw_recall(path, sets):
    """Recall over the time of a query."""
    names = names_with(lambda figures, name: figures.search(name), sets)
    canvas, panels = panels_for(sets, 3.2)
    for panel, figures in zip(panels, sets.values()):
        for number, name in enumerate(names):
            time, recall = figures.search(name), figures.search(name, field="recall")
            if time:
                panel.semilogx(time, recall, "o", color=colour(name, figures, None), markersize=9)
                panel.annotate(number + 1, (time, recall), fontsize=6, ha="center", va="center")
        panel.set_xlabel("ms, median", fontsize=7)
    panels[0].set_ylabel("recall of 10", fontsize=7)
    numbered = "\n".join(f"{number} {name}" for number, name in enumerate(names, 1))
    canvas.text(1, 0.5, numbered, fontsize=6, va="center")
    save(canvas, path)


def save(canvas, path):
    canvas.savefig(path, dpi=90, bbox_inches="tight")
    pyplot.close(canvas)
