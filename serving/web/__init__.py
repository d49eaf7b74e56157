"""HTTP: routes, bodies, connections, pages and the OpenAPI document."""
