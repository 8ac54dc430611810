"""Files to examples: reading, checking, rendering. Knows nothing of training, jobs or HTTP, and never imports torch."""
