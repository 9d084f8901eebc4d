"""What a competition asks for: predictions by a deadline, and a submission that decodes to them."""
