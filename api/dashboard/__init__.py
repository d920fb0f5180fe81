"""Pages for people, with NiceGUI. They speak the REST contract alone, as any other client does.

Nothing here is imported before an application with pages is made: NiceGUI is large, and a process without pages should
not hold it.
"""
