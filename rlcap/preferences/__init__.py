"""Human and simulated judgements of caption pairs."""
