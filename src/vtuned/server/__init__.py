"""A fine-tuning service that speaks OpenAI's protocol: real LoRA jobs in a worker process, and answers over HTTP."""
