"""Azure OpenAI's dialect: a second serialiser over the same use cases, and its deployments."""
