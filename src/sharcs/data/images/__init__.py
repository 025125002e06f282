"""Images: tables and folders that name them, and their pixels when they are asked for."""
