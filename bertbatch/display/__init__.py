"""What a person sees: progress, summaries, tables.

Views print what others computed.
No figure is made here.
"""
