"""The driver for a stock vLLM, which has no extension of ours."""

from loradock.engines.stock.engine import StockVllmEngine
from loradock.engines.stock.options import StockOptions
from loradock.engines.stock.report import KIND, MISSING_PROMISES

__all__ = ["KIND", "MISSING_PROMISES", "StockOptions", "StockVllmEngine"]
