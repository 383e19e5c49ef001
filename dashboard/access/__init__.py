"""Who may use the dashboard: the guard before every request, sign-in, sessions, origins."""
