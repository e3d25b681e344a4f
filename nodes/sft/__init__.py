"""sft: chat, tool trajectories and demonstrations; loss on assistant turns."""
