"""From losses to optimiser steps, for tables and sessions alike."""
