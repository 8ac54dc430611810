"""What `data` and `evaluate` tell in English sentences, in the page's language.

Their rules alone decide what is said. Here stand the forms of their commonest sentences, each with its places for
values; a sentence of one of these forms is told in the form's translation, and any other as it is.
"""

import re
from functools import cache

from tunewise.web.words import page_language, said, t

SENTENCES = (
    # the verdict's headline
    said("Worth it: the tuned model scores {score} where the best alternative, {arm}, scores {other}, on {rows}."),
    said(
        "Worth it for its cost: the tuned model is as good as {arms} on {rows} and cheaper per request; training is "
        "earned back after {requests} requests, within a year."
    ),
    said(
        "Not worth it: the tuned model scores {score}, below the {usable} from which its answers would be usable at "
        "all."
    ),
    said("Not worth it: at {score} the tuned model is only as good as {arm} at {other}."),
    said("Not worth it: at {score} the tuned model is worse than {arm} at {other}."),
    said(
        "Not worth it: the gain over {arm} is {gain}, and most likely smaller than the {worthwhile} that would be "
        "worthwhile."
    ),
    said("Inconclusive: {rows} also stands in {file}, so the scores prove nothing yet."),
    said("Inconclusive: {rows} also stand in {file}, so the scores prove nothing yet."),
    said(
        "Inconclusive: about {more} more test rows are needed, {all} in all, to tell how the tuned model ({score}) "
        "compares with {arms}."
    ),
    said(
        "Inconclusive: no prompt, few-shot or retrieval arm was run, so there is nothing to compare the tuned model "
        "with."
    ),
    said(
        "Inconclusive: the tuned model is as good as {arms} and cheaper from {requests} requests on, but how many you "
        "send is not known (use_case.requests_per_month)."
    ),
    said("Inconclusive: requests failed on {arms}, and their answers could turn the result."),
    # its reasons
    said(
        "On {rows} the tuned model scores {score} ({confidence} interval {range}) by {grader}; the best alternative is "
        "{arm} with {other} ({otherRange}). The difference, row by row, is {gain} ({gainRange}): {meaning}."
    ),
    said("The floor {arm} scores {score}. The difference, row by row, is {gain} ({gainRange}): {meaning}."),
    said("The arm {arm} scores {score}. The difference, row by row, is {gain} ({gainRange}): {meaning}."),
    said("The tuned model clearly beats {arms}."),
    said(
        "A score of {score} is below the {usable} set as usable (evaluation.usable_score), so no gain over another arm "
        "makes the answers worth having."
    ),
    said(
        "Training took {time}. Per 1,000 requests the tuned model saves {saved} against {arm}; training is earned back "
        "after {requests} requests."
    ),
    said(
        "Training took {time}. Per 1,000 requests the tuned model costs {more} more than {arm}, so its training is "
        "never earned back."
    ),
    said("Training took {time}."),  # after those that begin like it
    said(
        "Many answers ran into the token limit and are scored as cut: {arms}. If such an answer could be right when "
        "longer, raise evaluation.max_completion_tokens."
    ),
    said("{rows} repeats another test row, so the intervals are somewhat narrower than they should be."),
    said("{rows} repeat another test row, so the intervals are somewhat narrower than they should be."),
    # findings, each with its remedy
    said("repeats line {line}"),
    said("keep one of them, unless the row is meant to count more"),
    said("nearly repeats line {line}"),
    said("keep the better one, unless the variation is meant"),
    said("gives another answer to the prompt of line {line}"),
    said("keep the right answer, unless several are right"),
    said("the line is blank and holds no row"),
    said("remove it"),
    said("the row is {length} tokens long, the limit is {limit}"),
    said("shorten it, raise --max-tokens, or choose --overlong truncate or drop"),
    said("{rows} usable rows; at least {least} are needed"),
    said("add rows: 50 to 100 good ones are where an effect usually shows"),
    said("the assistant message has no content and no tool call"),
    said("write the answer, or set its weight to 0"),
    said("the last message is not the assistant's: nothing after the last answer is trained on"),
    said("end the row with an answer, or remove what follows it"),
    said("the row stands in the training data too: {file}, line {line}"),
    said("the row nearly stands (similarity {share}) in the training data too: {file}, line {line}"),
    said("remove it from one of the two: a score on rows that were trained on says nothing"),
    said("an e-mail address: {shown}"),
    said("leave it out or put a made-up one in its place, unless you may train on it"),
    said("revoke it, and put a made-up one in its place: a model repeats what it was taught"),
)
PARTS = (
    said("{count} test rows"),
    said("{count} test row"),
    said("{low} to {high}"),
    said("the training file"),
    said("the validation file"),
    said("the training or the validation file"),
    said("{count} machine-hours"),
    said("{time} and cost {amount}"),
    said("{requests} requests (you expect {count} a year)"),
    said("better, and by at least the {worthwhile} that you call worthwhile"),
    said("no gain of the {worthwhile} that you call worthwhile"),
    said("a gain, but too uncertain whether it reaches the {worthwhile} that you call worthwhile"),
    said("too uncertain to tell a gain of {worthwhile} from none"),
)


def told(text: str) -> str:
    """A sentence of `data` or `evaluate` in the page's language, where its form is known; else in English."""
    return text if page_language() == "en" else _by(SENTENCES, text)


def form_of(forms: tuple[str, ...], text: str) -> tuple[str, dict[str, str]] | None:
    """The first of the forms that the text has, and what stands in its places."""
    matches = ((form, _pattern(form).fullmatch(text)) for form in forms)
    return next(((form, match.groupdict()) for form, match in matches if match is not None), None)


def _by(forms: tuple[str, ...], text: str) -> str:
    found = form_of(forms, text)
    if found is None:
        return text
    form, values = found
    return t(form, **{name: _by(PARTS, value) for name, value in values.items()})


@cache
def _pattern(form: str) -> re.Pattern[str]:
    """What the form's sentences look like: any text in its places."""
    pieces = re.split(r"{(\w+)}", form)
    places = [f"(?P<{piece}>.+?)" if index % 2 else re.escape(piece) for index, piece in enumerate(pieces)]
    return re.compile("".join(places), re.DOTALL)
