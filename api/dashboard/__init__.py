"""Dashboard: web pages made with NiceGUI. They use only the REST API, through the client library `difffit`.

It is imported only if the dashboard is enabled, since NiceGUI is large and other processes should not load it.
"""
