"""The end of the page, folded: what Marigold is, how it works, what was published of it, and limits."""

import html
from functools import cache
from importlib.resources import files

from marigold_demo.published import DATA_SETS, PAPER, table

MARIGOLD = (
    "Marigold turns Stable Diffusion, a diffusion model that draws pictures, into one that estimates "
    "depth from a single photo. Only its denoising U-Net is fine-tuned, with rendered scenes alone and "
    "within a few days on one GPU, so that it denoises depth beside the photo. What the model knows of "
    "pictures stays, which is why it does well on photos of kinds that it was never tuned on."
)
INFERENCE = (
    "A run: depth begins as noise and is denoised beside the photo; several runs make an ensemble. The "
    "box at work is lit while a Marigold runs here."
)
TUNING = (
    "Fine-tuning: the autoencoder stays as it is; the U-Net learns to tell the noise in a latent of "
    "exact depth."
)
LIMITS = (
    "Depth from one photo is relative: nearer and farther, up to an unknown scale and an unknown shift.",
    "The checkpoint of this app is a small draft with soft edges; streets are its weakest subject.",
    "Mirrors and glass are read as what they show. Wrong depth makes a wrong relief.",
)
FIGURES = (
    "Published figures, not measured here: AbsRel in % (less is better) / delta1 in % (more is better),"
    " zero-shot. Bold is the best and underlined the second of the paper's table; its ranks are means "
    "over ten columns. “50 x 10”: 50 steps, ensemble of 10. ‡ What was aligned is not said."
)
OTHER_ROWS = "From later tables, not ranked. † Aligned in disparity, so not comparable with the rows above."
BIBTEX = """@inproceedings{ke2024repurposing,
  title     = {Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation},
  author    = {Bingxin Ke and Anton Obukhov and Shengyu Huang and Nando Metzger and Rodrigo Caye Daudt and Konrad Schindler},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2024}
}"""  # noqa: E501  # as in the README
LINKS = {
    "Paper": "https://arxiv.org/abs/2312.02145",
    "Marigold's page": "https://marigoldmonodepth.github.io",
}


@cache
def about() -> str:
    """Return it as HTML."""
    links = " · ".join(
        f'<a href="{url}" target="_blank" rel="noreferrer">{html.escape(name)}</a>'
        for name, url in LINKS.items()
    )
    limits = "".join(f"<li>{html.escape(one)}</li>" for one in LIMITS)
    return f"""
<style>{_file("about.css")}</style>
<div id="about-box"><details id="about"><summary><h2>About Marigold</h2></summary>
<p>{html.escape(MARIGOLD)} {links}</p>
<div class="schemes">{_figure("inference", INFERENCE)}{_figure("fine_tuning", TUNING)}</div>
<h3>Published figures</h3>
<div class="wide" tabindex="0" role="region" aria-label="Published figures">{_table()}</div>
<h3>Limits</h3><ul>{limits}</ul>
<h3>Citation <button type="button" data-copy="#bibtex">Copy</button></h3>
<pre id="bibtex" tabindex="0">{html.escape(BIBTEX)}</pre>
</details></div>"""


def _file(name: str) -> str:
    return files("marigold_demo.ui").joinpath(name).read_text(encoding="utf-8")


def _figure(name: str, words: str) -> str:
    return f"<figure>{_file(f'{name}.svg')}<figcaption>{html.escape(words)}</figcaption></figure>"


def _table() -> str:
    """Return the published rows as an HTML table."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("method", *DATA_SETS, "mean rank"))
    rows = [
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, *cells in table(lambda text: f"<b>{text}</b>", lambda text: f"<u>{text}</u>")
    ]
    note = f'<tr class="note"><td colspan="{len(DATA_SETS) + 2}">{html.escape(OTHER_ROWS)}</td></tr>'
    count = len(PAPER)
    return (
        f"<table><caption>{html.escape(FIGURES)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows[:count])}</tbody><tbody>{note}{''.join(rows[count:])}</tbody></table>"
    )
