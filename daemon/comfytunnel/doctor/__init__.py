"""What `comfytunnel doctor` asks for: a look at the whole road. Composed of the rooms below it; only app.py calls it."""
