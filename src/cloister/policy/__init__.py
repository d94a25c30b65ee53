"""What is allowed here: the appliance's settings, roles, and the Cedar policies that decide.

Settings are light and stand here; `cedar`, `roles` and `table` are imported by those who decide.
"""

from cloister.policy.settings import AccessSettings, AlertSettings, ApiSettings, Settings, load_settings

__all__ = ["AccessSettings", "AlertSettings", "ApiSettings", "Settings", "load_settings"]
