"""What kinds of problems in data are called on pages. The details are `data`'s own words, in English.

A kind without a name here is shown by its code, as the command line and the API show it.
"""

from tunewise.web.words import said, t

NAMES = {
    "bad_quotes": said("Wrong quotes"),
    "blank_line": said("Blank line"),
    "conflicting_answer": said("Same question, another answer"),
    "duplicate": said("Repeated row"),
    "duplicate_key": said("Field given twice"),
    "empty_assistant_content": said("Empty answer"),
    "empty_content": said("Empty message"),
    "empty_list": said("Empty list"),
    "equal_answers": said("Both answers are equal"),
    "invalid_json": said("No valid JSON"),
    "invalid_n_examples": said("Too few rows"),
    "invalid_role": said("Unknown role"),
    "invalid_tool_arguments": said("Arguments that are no JSON"),
    "invalid_utf8": said("Letters that cannot be read"),
    "invalid_value": said("Value that is not allowed"),
    "last_message_not_assistant": said("The last message is no answer"),
    "leakage": said("Row also stands in another file"),
    "missing_field": said("Field missing"),
    "near_duplicate": said("Nearly repeated row"),
    "no_assistant_message": said("No answer"),
    "no_prompt": said("No question"),
    "no_user_message": said("No question"),
    "not_an_object": said("No row"),
    "not_text": said("No text"),
    "nothing_to_train_on": said("Nothing to train on"),
    "overlong": said("Over-long row"),
    "personal_data": said("Personal data"),
    "secret": said("Secret or key"),
    "unknown_field": said("Unknown field"),
    "unknown_tool_call_id": said("Answer to a call that was not made"),
    "wrong_type": said("Value of another kind"),
    "wrong_width": said("More or fewer cells than the header"),
}


def name_of(code: str) -> str:
    """The kind of problem in words."""
    return t(NAMES[code]) if code in NAMES else code
