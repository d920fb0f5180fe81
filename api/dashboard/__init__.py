"""Web pages, made with NiceGUI. They use only the REST contract, through the SDK.

Imported only by an application with pages: NiceGUI is large, and other processes should not load it.
"""
