"""BaB-Attack: neighbourhoods of good candidates from below, a guided tree from above.

Source: Zhang, Wang, Xu, Wang, Hsieh, Kolter, A Branch and Bound Framework for Stronger Adversarial
Attacks of ReLU Networks, ICML 2022.
"""
