import gzip
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from jaxfc.calls.match import RIGHT, Verdict
from jaxfc.command import InputError
from jaxfc.curves import draw_reasons, moving_mean
from jaxfc.data.example import Example
from jaxfc.data.prompts import Tokenizer
from jaxfc.models.create import make_tokenizer
from jaxfc.processes import Share
from jaxfc.records import visible
from jaxfc.report import SHOWN_TOKENS, write_report
from jaxfc.rewards import Judged
from jaxfc.transcripts import write_transcripts
from jaxfc.types import Prompts, Rollouts, TokenScores

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}</style></title>&lt;$x^2$"
VOID = {"meta", "link", "br", "img", "hr", "input"}
IMPLIED = {"tr", "td", "th"}  # HTML lets these end by themselves.


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, text within, classes of all that it stands in)."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.stretches = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert [tag for tag, *_ in self.open if tag not in IMPLIED] == []

    def handle_starttag(self, tag, attributes):
        inherited = self.open[-1][3] if self.open else ()
        classes = tuple((dict(attributes).get("class") or "").split())
        element = [tag, dict(attributes), "", inherited + classes]
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        while self.open and self.open[-1][0] != tag and self.open[-1][0] in IMPLIED:
            self.open.pop()
        if tag not in VOID:
            assert self.open and self.open[-1][0] == tag, f"</{tag}> ends {self.open and self.open[-1][0]}"
            self.open.pop()

    def handle_data(self, data):
        self.stretches.append(data)
        for element in self.open:
            element[2] += data

    def text(self):
        """Of the whole page, each stretch of white space or markup as one space."""
        return " ".join(" ".join(self.stretches).split())

    def of(self, name):
        """Attributes and texts of the elements of a class."""
        return [
            (attributes, text)
            for _, attributes, text, _ in self.elements
            if name in (attributes.get("class") or "").split()
        ]

    def rows(self):
        """Each row of a table as its cells, without the cells of drawings."""
        rows = re.split(r"<tr[^>]*>", self.source)[1:]
        cells = [re.split(r"<t[hd][^>]*>", row.split("</tr>")[0])[1:] for row in rows]
        return [[" ".join(re.sub("<[^>]+>", "", cell).split()) for cell in row if "bar" not in cell] for row in cells]


def rollout(**fields):
    row = {
        "step": 0,
        "prompt_id": "t-1",
        "query": "What is the weather in Oslo?",
        "tools": ["get_weather(city: str)"],
        "reward": 1.0,
        "reason": "ok",
        "detail": "",
        "tokens": ["<think>", "Oslo", " it is", "</think>", "\n", "[]"],
        "logprobs": [-0.1, -1.25, -0.5, -0.001, 0.0, -0.25],
        "entropies": [0.0, 2.25, 1.0, 0.0, 0.0, 0.5],
        "cot": [False, True, True, False, False, False],
        "advantage": 0.75,
    } | fields
    return row | {"text": "".join(row["tokens"])}


def steps(count, **metrics):
    """Rows of metrics; a list gives a metric's value in each step, None where the step lacks it."""
    return [
        {"step": t} | {k: v[t] if isinstance(v, list) else v for k, v in metrics.items() if v is not None}
        for t in range(count)
    ]


SUMMARY = {
    "eval/before/overall": 0.25,
    "eval/after/overall": 0.625,
    "eval/before/single": 0.5,
    "eval/after/single": 0.4,
    "steps": 3,
    "seconds/rollout": 90.0,
    "seconds/update": 30.0,
    "seconds/compile": 3.0,
    "seconds/compile/update/96": 2.5,
    "speed/compiles": 0,
    "memory/peak_rss_gib": 1.42,
    "cpu_seconds": 200.0,
}
RL = {
    "reward/mean": [0.25, 0.5, 0.75],
    "reward/pass_any": 0.8,
    "reason/ok": [0.25, 0.5, 0.75],
    "reason/count": [0.75, 0.5, 0.25],
    "eval/overall": 0.5,
    "eval/single": 0.4,
    "entropy/cot_mean": 0.3,
    "entropy/bonus_mean": 0.06,
    "kl/reference": 0.01,
    "kl/sampler": 2e-9,
    "length/completion_mean": 60.0,
    "length/truncated": 0.0,
    "optim/grad_norm": 1.0,
    "loss/total": 0.1,
    "time/rollout": 2.0,
}


def make_run(folder, rows=None, summary=SUMMARY, transcripts=None, settings=None, name="r"):
    settings = settings or {"name": name, "steps": 3, "batch": 32, "seed": 5}
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.dump(settings, sort_keys=False))
    rows = steps(3, **{f"{name}": value for name, value in RL.items()}) if rows is None else rows
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    for step, lines in ({0: [rollout()], 2: [rollout(step=2)]} if transcripts is None else transcripts).items():
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (folder / "rollouts" / f"step_{step:06}.jsonl.gz").write_bytes(gzip.compress(data))
    return folder


def report(folder, *arguments, **options):
    return Page(write_report(make_run(folder, *arguments, **options)))


def texts(page, tag):
    return [" ".join(text.split()) for name, _, text, _ in page.elements if name == tag]


def test_the_page_is_in_the_run_folder_and_needs_no_other_file(tmp_path):
    page = report(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file()
    assert "script" not in {tag for tag, *_ in page.elements}
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, *_ in page.elements}
    for _, attributes, _, _ in page.elements:
        assert not {"src", "srcset", "data", "action"} & set(attributes)
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page.source)
    policies = [a["content"] for _, a, _, _ in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_a_drawing_refers_only_to_names_that_stand_once_on_the_page(tmp_path):
    page = report(tmp_path / "run")
    names = [attributes["id"] for _, attributes, _, _ in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    used = re.findall(r'(?:href="|url\()#([^")]+)', page.source)
    assert used and set(used) <= set(names)


def test_the_same_files_give_the_same_bytes(tmp_path):
    first = write_report(make_run(tmp_path / "a")).read_bytes()
    assert write_report(tmp_path / "a").read_bytes() == first
    assert write_report(make_run(tmp_path / "b")).read_bytes() == first


def test_a_figure_is_drawn_for_each_curve_that_the_run_has(tmp_path):
    titles = texts(report(tmp_path / "rl"), "h3")
    assert titles[:11] == [
        "Reward",
        "Held-out accuracy",
        "Entropy of the chain of thought",
        "Entropy bonus",
        "Distance from the reference",
        "Sampler against trainer",
        "Length",
        "Truncated",
        "Gradient norm",
        "Loss",
        "Verdict reasons",
    ]
    sft = steps(2, **{"loss/total": [3.0, 2.0], "eval/overall": 0.5, "time/update": 1.0})
    page = report(tmp_path / "sft", sft, transcripts={})
    assert texts(page, "h3") == ["Held-out accuracy", "Loss"]
    assert len([tag for tag, *_ in page.elements if tag == "svg"]) == 2
    assert "Loss 3 → 2" in page.text()


def test_the_table_has_accuracy_before_and_after_overall_and_by_kind(tmp_path):
    rows = report(tmp_path / "run").rows()
    assert ["overall", "0.250", "0.625", "+0.375"] in rows
    assert ["single", "0.500", "0.400", "−0.100"] in rows
    assert rows.index(["overall", "0.250", "0.625", "+0.375"]) == 1


def test_headlines_are_those_of_the_summary(tmp_path):
    page = report(tmp_path / "run")
    text = page.text()
    assert "Accuracy 0.250 → 0.625" in text
    assert "Reward 0.250 → 0.750" in text
    # 90 + 30 + 3 seconds: the programs' own times are parts of the phase `compile`.
    assert "Time 2 min 03 s" in text
    assert "Peak memory 1.42 GiB" in text
    assert "Programs 1 0 compiled after the first step" in text
    assert ["rollout", "1 min 30 s", "73 %"] in page.rows()
    assert ["update/96", "2.5 s"] in page.rows()


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(tmp_path):
    folder = make_run(tmp_path / "run", summary=None)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "reward/me')  # being written
    text = Page(write_report(folder)).text()
    assert "not finished: 3 of 3 steps" in text
    assert "Before and after" not in text
    assert "Accuracy 0.500 → 0.500" in text
    assert "Time 6.0 s" in text  # 3 steps of 2 seconds
    assert "Peak memory" not in text and "Programs" not in text


def test_a_run_of_one_step_is_drawn(tmp_path):
    page = report(tmp_path / "run", steps(1, **{"loss/total": 1.0, "reason/ok": 1.0}), summary=None, transcripts={})
    assert texts(page, "h3") == ["Loss", "Verdict reasons"]


@pytest.mark.parametrize("metrics", [None, "", '{"step": 0, "loss'])
def test_a_folder_without_steps_is_refused_by_name(tmp_path, metrics):
    if metrics is not None:
        (tmp_path / "metrics.jsonl").write_text(metrics)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}: no steps to report on")):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_null_is_a_gap_that_is_counted(tmp_path):
    rows = steps(3, **{"loss/total": [1.0, None, 3.0], "optim/grad_norm": [None, None, None]})
    for row in rows:
        row.setdefault("loss/total", None)
        row.setdefault("optim/grad_norm", None)
    page = report(tmp_path / "run", rows, summary=None, transcripts={})
    assert "loss/total 1 → 3 no number in 1 step" in page.text()
    assert "optim/grad_norm – → – no number in 3 steps" in page.text()
    drawing = page.source[page.source.index('aria-label="Loss') :].split("</svg>")[0]
    # Two points and nothing between them: a line would have been drawn to.
    assert not re.search(r'd="M [^"]*\nL [^"]*"[^>]*stroke: var\(--c0\)', drawing)


def test_no_text_of_a_run_becomes_markup(tmp_path):
    control = HOSTILE + "\x00\x1b[31m\ud800\u202e"
    transcript = rollout(
        prompt_id=control, query=control, tools=[control], reason=control, detail=control,
        tokens=[control, "a\ud83d", "\x07"], logprobs=[0.0] * 3, entropies=[0.0] * 3, cot=[True, False, False],
    )  # fmt: skip
    rows = steps(2, **{"reason/" + HOSTILE: 0.5, "eval/" + HOSTILE.replace("/", ""): 0.5, "eval/overall": 1.0})
    summary = SUMMARY | {f"eval/after/{HOSTILE}": 0.5, f"seconds/{HOSTILE.replace('/', '')}": 1.0}
    settings = {"name": HOSTILE, "batch": HOSTILE, "seed": HOSTILE, "algorithm": {"group_size": HOSTILE}}
    hostile = report(tmp_path / "a", rows, summary | {f"seconds/compile/{HOSTILE}": 1.0}, {0: [transcript]}, settings)
    tame = report(tmp_path / "b")
    known = {tag for tag, *_ in tame.elements} | {"em"}
    assert {tag for tag, *_ in hostile.elements} <= known
    assert {name for _, attributes, _, _ in hostile.elements for name in attributes} <= {
        name for _, attributes, _, _ in tame.elements for name in attributes
    }
    assert texts(hostile, "style") == texts(tame, "style")
    shown = HOSTILE + "␀␛[31m��"
    assert (hostile.of("query")[0][1], hostile.of("detail")[0][1]) == (shown, shown)
    assert hostile.of("text")[0][1] == shown + "a�" + "␇"
    assert texts(hostile, "h1") == [HOSTILE]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e]", hostile.source)


def test_pairs_of_surrogates_are_one_character_and_halves_none():
    assert visible(["\ud83d\ude00", "\ude00\ud83d", {"a\tb\n": "c\r"}]) == ["😀", "��", {"a\tb\n": "c␍"}]


def test_each_token_has_its_text_heat_logprob_and_entropy(tmp_path):
    page = report(tmp_path / "run", transcripts={0: [rollout()]})
    tokens = [each for each in page.elements if "title" in each[1] and each[1]["title"].startswith("logprob")]
    assert [text for _, _, text, _ in tokens] == ["<think>", "Oslo", " it is", "</think>", "↵\n", "[]"]
    assert tokens[1][1]["title"] == "logprob −1.250, entropy 2.25 nats"
    # The hottest of 6 tokens, less a little for outliers, is the top of the scale.
    hottest = np.quantile(rollout()["entropies"], 0.99)
    levels = [f"h{min(9, int(10 * entropy / hottest))}" for entropy in rollout()["entropies"]]
    assert [attributes["class"] for _, attributes, _, _ in tokens] == levels
    assert [classes.count("cot") for _, _, _, classes in tokens] == [0, 1, 1, 0, 0, 0]
    assert "✓ ok" in page.text() and "reward 1 · advantage +0.750" in page.text()


def test_entropies_of_both_steps_share_one_scale(tmp_path):
    cool = rollout(step=2, entropies=[0.2] * 6)
    page = report(tmp_path / "run", transcripts={0: [rollout(entropies=[2.0] * 6)], 2: [cool]})
    levels = [a["class"] for _, a, _, _ in page.elements if a.get("title", "").startswith("logprob")]
    assert levels == ["h9"] * 6 + ["h1"] * 6


def test_entropies_that_are_no_numbers_are_not_coloured(tmp_path):
    page = report(tmp_path / "run", transcripts={0: [rollout(entropies=[None] * 6, logprobs=[math.nan] * 6)]})
    found = [a for _, a, _, _ in page.elements if a.get("title", "").startswith("logprob")]
    assert [(a["class"], a["title"]) for a in found] == [("h0", "logprob –, entropy – nats")] * 6


def test_the_first_and_the_last_recorded_step_are_shown(tmp_path):
    recorded = {step: [rollout(step=step, query=f"query {step}")] for step in (0, 2, 1000000)}
    page = report(tmp_path / "run", transcripts=recorded)
    assert [text for _, text in page.of("step")] == ["Step 0", "Step 1000000"]
    assert [text for _, text in page.of("query")] == ["query 0", "query 1000000"]


def test_a_group_shows_right_and_wrong_completions_and_counts_all(tmp_path):
    group = [rollout(reason="count", detail=f"wrong {i}") for i in range(6)] + [rollout(), rollout()]
    page = report(tmp_path / "run", transcripts={0: group})
    assert [text for _, text in page.of("detail")] == ["wrong 0", "wrong 1"]
    assert len(page.of("rollout")) == 4
    assert "2 of 8 right" in page.text() and "4 more completions of this prompt" in page.text()


def test_the_middle_of_a_long_completion_is_left_out_and_counted(tmp_path):
    count = SHOWN_TOKENS + 50
    long = rollout(
        tokens=[f"{i} " for i in range(count)], logprobs=[0.0] * count, entropies=[0.0] * count, cot=[True] * count
    )
    ((_, text),) = report(tmp_path / "run", transcripts={0: [long]}).of("text")
    assert text == (
        "".join(f"{i} " for i in range(400)) + " … 50 tokens left out … " + "".join(f"{i} " for i in range(450, count))
    )


def test_shares_of_reasons_add_up_and_those_without_a_colour_are_others():
    names = [f"reason {i}" for i in range(16)]
    rows = [{"step": t, "reason/ok": 0.4, f"reason/{names[t]}": 0.6} for t in range(16)]
    shares = draw_reasons(rows).shares
    assert [share.reason for share in shares] == ["ok", *sorted(names)[:10], "others"]
    assert sum(share.first for share in shares) == pytest.approx(1)
    # A tenth of 16 steps is 1: the last saw only `ok` and reason 15, whose name sorts eighth.
    assert {share.reason: share.last for share in shares if share.last} == {"ok": 0.4, "reason 15": 0.6}


def test_a_moving_mean_counts_only_what_is_known():
    values = np.array([1.0, math.nan, 3.0, 5.0, 10.0])
    np.testing.assert_allclose(moving_mean(values, 3), [1, math.nan, (3 + 5) / 2, (3 + 5 + 10) / 3, (5 + 10) / 2])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"cot": [True]}, "one value per token"),
        ({"logprobs": None}, "TypeError"),
        ({"advantage": "much"}, "ValueError"),
    ],
)
def test_a_broken_transcript_is_named_with_its_line(tmp_path, change, found):
    folder = make_run(tmp_path / "run", transcripts={0: [rollout(), rollout() | change]})
    path = folder / "rollouts" / "step_000000.jsonl.gz"
    with pytest.raises(InputError, match=re.escape(f"{path}:2: not a rollout") + f".*{found}"):
        write_report(folder)


def test_files_that_training_did_not_write_are_named(tmp_path):
    broken = {"config.yaml": "a: [", "summary.json": "{", "rollouts/step_000000.jsonl.gz": "x", "metrics.jsonl": "x\n"}
    for number, (name, contents) in enumerate(broken.items()):
        folder = make_run(tmp_path / str(number))
        (folder / name).write_text(contents)
        with pytest.raises(InputError, match=re.escape(str(folder / name))):
            write_report(folder)


def test_the_kind_of_run_is_said(tmp_path):
    egpo = {"group_size": 8, "entropy": {"scale": 0.4, "cap": 2.0}}
    settings = {"name": "r", "batch": 32, "seed": 5, "algorithm": egpo, "reward": {"shuffled": True}}
    page = report(tmp_path / "a", settings=settings)
    spans = [text for tag, _, text, _ in page.elements if tag == "span"][:6]
    assert spans[:4] == ["EGPO", "32 prompts a step", "8 completions each", "seed 5"]
    assert spans[5] == "control: rewards dealt out at random"
    grpo = egpo | {"entropy": None}
    assert "GRPO" in report(tmp_path / "b", settings=settings | {"algorithm": grpo}).text()
    assert "GRPO" not in report(tmp_path / "c").text()


def test_transcripts_are_read_as_training_writes_them(tmp_path):
    make_tokenizer(tmp_path / "tokenizer", ["<think>it is Oslo</think>"], 280)
    tokenizer = Tokenizer(tmp_path / "tokenizer")
    ids = tokenizer.encode("<think>Østlandet</think>\n[]")
    tokens = np.array([ids, ids])
    scores = TokenScores(np.full(tokens.shape, -0.5, np.float32), np.full(tokens.shape, 0.25, np.float32))
    lengths = np.full(2, len(ids))
    rollouts = Rollouts(Prompts(np.zeros((1, 4), int), np.array([4])), tokens, lengths, np.ones(2, bool), scores)
    verdicts = [RIGHT, Verdict(False, "name", "f is called")]
    judged = Judged(np.array([[1.0, 0.0]]), np.ones(tokens.shape, bool), verdicts, Share.whole(1))
    example = Example(id="e-1", messages=({"role": "user", "content": "Where?"},), tools=(), accepted=())
    folder = make_run(tmp_path / "run", transcripts={})
    write_transcripts(folder / "rollouts", 7, [0], [example], rollouts, judged, np.array([0.5, -0.5]), tokenizer)
    page = Page(write_report(folder))
    assert [text for _, text in page.of("step")] == ["Step 7"]
    assert [text for _, text in page.of("query")] == ["Where?"]
    assert [" ".join(text.split()) for _, text in page.of("verdict")] == [
        "✓ ok reward 1 · advantage +0.500",
        "✗ name f is called reward 0 · advantage −0.500",
    ]
    # A token may end within a character of UTF-8; Ø is two bytes.
    assert page.of("text")[0][1] in ("<think>Østlandet</think>↵\n[]", "<think>��stlandet</think>↵\n[]")


def test_importing_the_report_does_not_load_matplotlib():
    code = "import sys, jaxfc.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
