"""pretrain: MLA + MoE under MuonClip and a WSD schedule."""
