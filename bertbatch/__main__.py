from bertbatch.cli import app

app()
