"""The pretrain stage: MLA + MoE trained with MuonClip and a WSD schedule."""
