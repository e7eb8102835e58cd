"""Every refusal of the lab as data: cases by area, run by the real command, printed as a page."""
