"""The API as several processes that share its ports: who starts them, and what they tell one another."""
