"""What a captioner must hold to, checked on the captioner itself: `check_captioner`, for commands and test suites."""
