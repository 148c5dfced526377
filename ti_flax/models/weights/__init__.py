"""Files of weights and configurations, and the parameter trees that they become."""
