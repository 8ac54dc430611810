"""What the OpenAPI document says of completion requests and answers. The model server checks; this only describes."""

from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

MODEL: Schema = {
    "type": "string",
    "description": "A base model, an alias, a tuned model, a checkpoint or a deployment.",
    "examples": ["smollm2-135m-instruct"],
}
FREQUENCY = "Taken from a token's logit for each time that it was written."
PRESENCE = "Taken from a token's logit once it was written."
SAMPLING: Schema = {
    "model": MODEL,
    "max_tokens": {"type": ["integer", "null"], "minimum": 1, "description": "The most tokens to write."},
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2, "description": "0 takes the likeliest."},
    "top_p": {
        "type": ["number", "null"],
        "exclusiveMinimum": 0,
        "maximum": 1,
        "description": "Sample among the likeliest tokens that have this share together.",
    },
    "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128, "description": "How many answers."},
    "seed": {"type": ["integer", "null"], "description": "The same seed gives the same answer."},
    "frequency_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2, "description": FREQUENCY},
    "presence_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2, "description": PRESENCE},
    "logit_bias": {
        "type": ["object", "null"],
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "maxProperties": 1024,
        "description": "Added to the logits of tokens, by their ids in this model.",
    },
    "stop": {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 4},
            {"type": "null"},
        ],
        "description": "Where to stop; at most four.",
    },
    "stream": {"type": ["boolean", "null"], "description": "Send the answer as server-sent events."},
    "stream_options": {
        "type": ["object", "null"],
        "properties": {"include_usage": {"type": "boolean", "description": "End the stream with the tokens used."}},
        "description": "Only with `stream`.",
    },
}
FUNCTION_NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
CHAT_REQUEST: Schema = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": SAMPLING
    | {
        "messages": {
            "type": "array",
            "minItems": 1,
            "description": "The conversation so far.",
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {
                    "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
                    "content": {"description": "Text, or a list of text parts."},
                },
            },
        },
        "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1, "description": "As `max_tokens`."},
        "logprobs": {"type": ["boolean", "null"], "description": "Send log-probabilities."},
        "top_logprobs": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": 20,
            "description": "Of how many of the likeliest tokens.",
        },
        "response_format": {
            "type": ["object", "null"],
            "required": ["type"],
            "properties": {
                "type": {"enum": ["text", "json_object", "json_schema"]},
                "json_schema": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": FUNCTION_NAME, "schema": {"type": "object"}},
                },
            },
            "description": "The form of the answer; a schema is enforced while the model writes.",
        },
        "tools": {
            "type": ["array", "null"],
            "maxItems": 128,
            "items": {
                "type": "object",
                "required": ["type", "function"],
                "properties": {
                    "type": {"const": "function"},
                    "function": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": FUNCTION_NAME, "parameters": {"type": ["object", "null"]}},
                    },
                },
            },
            "description": "Functions that the model may call.",
        },
        "tool_choice": {
            "anyOf": [
                {"enum": ["none", "auto", "required", None]},
                {
                    "type": "object",
                    "required": ["type", "function"],
                    "properties": {
                        "type": {"const": "function"},
                        "function": {"type": "object", "required": ["name"], "properties": {"name": FUNCTION_NAME}},
                    },
                },
            ],
            "description": "Whether the model may call, must call, or must call one of them.",
        },
        "parallel_tool_calls": {
            "type": ["boolean", "null"],
            "description": "Whether the model may make several calls at once.",
        },
    },
    "examples": [
        {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
    ],
}
COMPLETION_REQUEST: Schema = {
    "type": "object",
    "required": ["model", "prompt"],
    "properties": SAMPLING
    | {
        "prompt": {"description": "Text, token ids, or a list of either."},
        "logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20, "description": "As `top_logprobs`."},
    },
    "examples": [{"model": "smollm2-135m-instruct", "prompt": "Once upon a time", "max_tokens": 16}],
}
EMBEDDING_REQUEST: Schema = {
    "type": "object",
    "required": ["model", "input"],
    "properties": {
        "model": {
            "type": "string",
            "description": "A model of embeddings, or an alias.",
            "examples": ["all-minilm-l6-v2"],
        },
        "input": {
            "description": "A text, its token ids, or a list of up to 2048 of either. The ids are the model's own.",
        },
        "encoding_format": {
            "enum": ["float", "base64"],
            "description": "Numbers, or the little-endian float32 of them in base64, which the SDK asks for.",
        },
        "dimensions": {"type": ["integer", "null"], "minimum": 1, "description": "The model's own, or left out."},
        "user": {"type": ["string", "null"], "description": "Changes nothing."},
    },
    "examples": [{"model": "all-minilm-l6-v2", "input": "Crème brûlée"}],
}
USAGE: Schema = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {
        "prompt_tokens": {"type": "integer"},
        "completion_tokens": {"type": "integer"},
        "total_tokens": {"type": "integer"},
        "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": {"type": "integer"}}},
    },
}

STREAM: Schema = {"type": "string", "description": "Server-sent events, as OpenAI sends them."}
BUSY: Schema = {"description": "Too many requests wait for this model; `Retry-After` says for how long to pause."}


def body(schema: Schema) -> Schema:
    """What a route's `openapi_extra` says of its body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def answers(kind: str, choice: Schema) -> dict[int | str, Schema]:
    """What a route answers: an object of `kind` with choices, or a stream of them."""
    whole = {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "created": {"type": "integer", "description": "Unix time in seconds."},
            "model": {"type": "string", "description": "What answered; an alias is told by its model."},
            "choices": {"type": "array", "items": {"type": "object", "properties": choice}},
            "usage": USAGE,
        },
    }
    content = {"application/json": {"schema": whole}, "text/event-stream": {"schema": STREAM}}
    return {200: {"description": "The answer.", "content": content}, 429: BUSY}


FINISH_REASON: Schema = {"enum": ["stop", "length", None]}
CHAT_REASON: Schema = {"enum": ["stop", "length", "tool_calls", None]}
CHAT_ANSWERS = answers("chat.completion", {"message": {"type": "object"}, "finish_reason": CHAT_REASON})
COMPLETION_ANSWERS = answers("text_completion", {"text": {"type": "string"}, "finish_reason": FINISH_REASON})
EMBEDDING_ANSWERS: dict[int | str, Schema] = {
    200: {
        "description": "The embeddings, in the order of the input.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["object", "data", "model", "usage"],
                    "properties": {
                        "object": {"const": "list"},
                        "data": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "object": {"const": "embedding"},
                                    "index": {"type": "integer"},
                                    "embedding": {"description": "Numbers, or base64; their squares add up to 1."},
                                },
                            },
                        },
                        "model": {"type": "string", "description": "What answered; an alias is told by its model."},
                        "usage": {
                            "type": "object",
                            "required": ["prompt_tokens", "total_tokens"],
                            "properties": {"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}},
                        },
                    },
                }
            }
        },
    },
    429: BUSY,
}
