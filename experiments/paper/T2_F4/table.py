"""Shares of games and of solutions that show each pattern, by checkpoint, and the transfer rates."""

from spiral.experiments.tables import Entry, Results, Table

NAMES = {
    "case_by_case": "case by case",
    "expected_value": "expected value",
    "pattern_recognition": "pattern recognition",
}


def tables(results: Results) -> list[Table]:
    """The tables of `spiral patterns`, for one seed after the other."""
    shares, rates = [], []
    for seed, found in zip(results.seeds, results.of("patterns"), strict=False):
        seeds = f", seed {seed}" if len(results.seeds) > 1 else ""
        shares += [
            Entry(
                row=f"{row['domain']}, step {row['step'] or 0}{seeds}", column=row["pattern"], value=row["share"],
                low=row["share_low"], high=row["share_high"], n=row["traces"],
            )
            for row in found["shares"] if row["success"] == "all"
        ]  # fmt: skip
        for row in found["transfer"]:
            paper = row["paper_maths"] / row["paper_games"] if row["paper_games"] else None
            rates.append(
                Entry(row=f"step {row['step']}{seeds}", column=row["pattern"], value=row["rate"], low=row["rate_low"],
                      high=row["rate_high"], paper=paper)
            )  # fmt: skip
    if not results.of("patterns"):
        shares = [Entry(row="games", column=name, value=None) for name in NAMES.values()]
    made = [Table(name="patterns", title="Traces that show each pattern", entries=shares)]
    if rates:
        note = "Share of solutions over share of games. The paper's is that of step 400."
        made.append(Table(name="transfer", title="Transfer rates", entries=rates, form="{:.2f}", note=note))
    return made
