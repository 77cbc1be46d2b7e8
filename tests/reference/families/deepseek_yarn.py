"""YaRN as DeepSeek's authors read its settings."""

# Of DeepseekV2YarnRotaryEmbedding in the authors' modeling_deepseek.py.
ORIGINAL_CONTEXT = 4096


def patch(config, embedding, mscale):
    """Changes transformers' classes of a generation; mscale is its yarn_get_mscale(factor, mscale)."""
    post_init = config.__post_init__

    def post_init_with_original_context(self, **kwargs):
        rope = kwargs.get("rope_scaling") or self.rope_parameters or {}
        if "yarn" in (rope.get("rope_type"), rope.get("type")):
            rope.setdefault("original_max_position_embeddings", ORIGINAL_CONTEXT)
        post_init(self, **kwargs)

    config.__post_init__ = post_init_with_original_context

    rope_init = embedding.__init__

    def rope_init_with_mscale(self, config):
        rope_init(self, config)
        rope = config.rope_parameters
        if rope["rope_type"] == "yarn" and rope.get("attention_factor") is None:
            both = (rope.get("mscale", 1), rope.get("mscale_all_dim", 0))
            above, below = (mscale(rope["factor"], one) for one in both)
            self.attention_scaling = above / below

    embedding.__init__ = rope_init_with_mscale
