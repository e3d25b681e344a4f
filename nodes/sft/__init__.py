"""The sft stage: chat, tool trajectories and demonstrations; loss on assistant turns."""
