"""What people and programs ask of the running service: API and page, and how a command finds it."""
