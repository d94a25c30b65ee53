"""What is allowed here: the appliance's settings, roles, and the Cedar policies that decide.

Settings are light and stand here; `cedar`, `roles` and `table` are imported by those who decide.
"""

from cloister.policy.settings import AccessSettings, ApiSettings, Settings, load_settings

__all__ = ["AccessSettings", "ApiSettings", "Settings", "load_settings"]
