"""The command line, made of all commands.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

# isort: off
# In this order `--help` lists them.
from bertbatch.commands import jobs as jobs
from bertbatch.commands import outputs as outputs
from bertbatch.commands import judging as judging
from bertbatch.commands import attention as attention
from bertbatch.commands import job_files as job_files
from bertbatch.commands.command import app as app

# isort: on

if __name__ == "__main__":
    app()
