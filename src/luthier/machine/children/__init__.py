"""Programs that are run in processes of their own: each may crash, hang or be ended."""
