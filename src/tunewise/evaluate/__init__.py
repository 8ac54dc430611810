"""Was the fine-tune worth it: arms, graders, statistics, economics, verdict, report.

Evaluation is a client. It knows models only as OpenAI-compatible endpoints and imports nothing of the compute plane.
"""
