"""Hosting: one process per base model, any number of LoRA adapters, OpenAI-compatible HTTP.

__main__    flags, start-up, the ready file
http        routes; meets the engine at a queue (`mailbox`)
wire        what clients may send, and what is refused by name; `replies` is what they get back
engine      one thread: admits, computes, samples, reports. Knows nothing of HTTP
scheduler   who is computed next: prompts in token-budget chunks between decode steps
network     the model: one forward pass over packed tokens, with `attention`, `linear` and `adapters` inside
kv, prefix  keys and values of running requests, and of prompt beginnings worth keeping
sampling    logits to tokens; `text` is tokens to text, with stop strings
"""
