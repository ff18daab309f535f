"""Members who bring friends: programmes, personal links, rewards for both sides."""
