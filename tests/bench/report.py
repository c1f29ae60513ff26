"""Reports of benchmarks: Markdown tables and bars as SVG, without a library."""

from __future__ import annotations

from html import escape


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def bar_chart(title: str, values: dict[str, float]) -> str:
    """Horizontal bars, the figure at the end of each."""
    most = max(values.values(), default=1) or 1
    bars = []
    for number, (name, value) in enumerate(values.items()):
        top = 40 + 30 * number
        width = max(1, round(360 * value / most))
        bars.append(
            f'<text x="190" y="{top + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="200" y="{top}" width="{width}" height="20" fill="#4477aa"/>'
            f'<text x="{206 + width}" y="{top + 15}">{value:,.1f}</text>'
        )
    height = 50 + 30 * len(values)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="660" height="{height}" '
        f'font-family="sans-serif" font-size="13">'
        f'<rect width="660" height="{height}" fill="#ffffff"/><text x="10" y="22" font-size="15">{escape(title)}</text>'
        f"{''.join(bars)}</svg>\n"
    )
