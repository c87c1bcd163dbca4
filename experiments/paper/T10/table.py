"""The mean of each measure over the seeds, and the value of every seed."""

from spiral.experiments.tables import Entry, Results, Table, mean_entry

PAPER = {"base": 0.340, "multi": 0.445}


def tables(results: Results) -> list[Table]:
    """At full scale the mean of the eight benchmarks; on a laptop games against random play and exploitability."""
    if results.scale == "full":
        entries = []
        for item in ("base", "multi"):
            means = [result["mean"]["accuracy"] for result in results.of("reasoning", item)]
            entries.append(mean_entry(item, "mean of 8 benchmarks", means, paper=PAPER[item]))
            entries += [Entry(row=item, column=f"seed {seed}", value=value)
                        for seed, value in zip(results.seeds, means, strict=False)]  # fmt: skip
        note = "v3: 44.5 +- 0.5% over three seeds. The interval is Student's over seeds."
        return [Table(name="seeds", title="Three seeds", entries=entries, note=note)]
    entries = []
    for item in ("base", "multi"):
        played = results.of("games", item)
        for number, game in enumerate(("tictactoe", "kuhn_poker", "simple_negotiation")):
            scores = [result["games"][number]["score"][0][1] for result in played]
            entries.append(mean_entry(item, f"{game}: score against random play", scores))
        found = [result["exploitability"] for result in results.of("exploitability", item)]
        entries.append(mean_entry(item, "kuhn_poker: exploitability, chips", found))
    note = "Means over seeds, with Student's 95% interval over seeds; the base model is the same with every seed."
    return [Table(name="seeds", title="Three seeds", entries=entries, form="{:.3f}", note=note)]
