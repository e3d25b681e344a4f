"""The uses of Great Expectations beyond its public interface, in one function each, written for 1.24.1.

tests/pipelines/gates/test_internals.py says in one sentence which of them an installed version has moved away from.
"""

from typing import Any


def silent_context() -> Any:
    """Return a context in memory that prints no progress bar and makes no site.

    Great Expectations 1.24.1's `get_context` has no arguments for these: by itself it shows bars and names a temporary
    folder for a site. Both are settings of the `DataContextConfig` in data_context.types.base.
    """
    import great_expectations as gx
    from great_expectations.data_context.types import base

    in_memory = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=base.ProgressBarsConfig(globally=False),
    )
    return gx.get_context(mode="ephemeral", project_config=in_memory)


def page_of(result: dict[str, Any]) -> str:
    """Return Great Expectations' page about a validation result, as HTML.

    Great Expectations 1.24.1 renders pages only for a site that it keeps itself; this joins the parts of which it
    makes them: the schema that reads the result, the renderer and the view.
    """
    from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    view: Any = DefaultJinjaPageView()
    return str(view.render(ValidationResultsPageRenderer().render(expectationSuiteValidationResultSchema.load(result))))
