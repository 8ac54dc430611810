"""What is kept: SQLAlchemy tables, one module of functions per resource, and the migrations. The only place with SQL.

Functions take the open session first and give the frozen values of `contracts.jobs`; a row that is not there, or is
another project's, is `None`. They know nothing of who asks, of files on the disk, or of any wire.
"""
