"""The K2 model: DeepSeek-V3's architecture as K2 configures it, fields named as in Hugging Face."""
