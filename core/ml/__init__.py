"""Model code: everything that needs torch. Of the project's other packages it imports only `core.artifact`."""
