# As much of nixpkgs's `lib` as the module, the flake and the VM tests use, so that they can be evaluated without nixpkgs. The
# merging of modules follows the NixOS manual: conditions are pushed down to the options, the lowest priority number wins, and
# what no option declares is an error, or goes to the free-form type where there is one.
let
  inherit (builtins)
    all
    any
    attrNames
    attrValues
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    hasAttr
    head
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    map
    mapAttrs
    match
    removeAttrs
    substring
    ;

  # Lists, strings, attribute sets.
  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: values: if condition then values else [ ];
  optionalString = condition: text: if condition then text else "";
  concatMapStrings = f: list: concatStringsSep "" (map f list);
  optionalAttrs = condition: set: if condition then set else { };
  nameValuePair = name: value: { inherit name value; };
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  filterAttrs =
    f: set:
    listToAttrs (
      concatMap (name: optional (f name set.${name}) (nameValuePair name set.${name})) (attrNames set)
    );
  unique = foldl' (seen: value: if elem value seen then seen else seen ++ [ value ]) [ ];
  last = list: builtins.elemAt list (length list - 1);
  hasPrefix = prefix: text: substring 0 (builtins.stringLength prefix) text == prefix;
  showOption = concatStringsSep ".";
  isDerivation = value: isAttrs value && value.type or null == "derivation";
  getExe = package: "${package}/bin/${package.meta.mainProgram}";

  # What may stand in place of a value.
  property = type: value: isAttrs value && value._type or null == type;
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  mkOption = attributes: attributes // { _type = "option"; };
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${what}.";
    };
  mkPackageOption =
    pkgs: name: _:
    mkOption {
      type = types.package;
      default = pkgs.${name};
      description = "The ${name} package to use.";
    };

  # The values of a definition with their priorities, conditions and merges taken away.
  discharge =
    priority: value:
    if property "if" value then
      optionals value.condition (discharge priority value.content)
    else if property "merge" value then
      concatMap (discharge priority) value.contents
    else if property "override" value then
      discharge value.priority value.content
    else
      [ { inherit priority value; } ];

  # The sets of a definition with conditions and priorities moved to their attributes. No condition is looked at, for it may
  # depend on what is defined here.
  pushDown =
    value:
    if property "if" value then
      map (mapAttrs (_: mkIf value.condition)) (pushDown value.content)
    else if property "merge" value then
      concatMap pushDown value.contents
    else if property "override" value then
      map (mapAttrs (_: mkOverride value.priority)) (pushDown value.content)
    else
      [ value ];

  # Several definitions of one value.
  mergeDefinitions =
    loc: type: definitions:
    let
      discharged = concatMap (d: discharge d.priority d.value) definitions;
      strongest = foldl' (a: b: if b.priority < a then b.priority else a) 1500 discharged;
      values = map (d: d.value) (filter (d: d.priority == strongest) discharged);
      bad = filter (value: !(type.check value)) values;
    in
    if discharged == [ ] then
      throw "The option `${showOption loc}' was accessed but has no value defined."
    else if bad != [ ] then
      throw "A definition for option `${showOption loc}' is not of type `${type.name}'."
    else
      type.merge loc values;
  plain = map (value: {
    priority = 100;
    inherit value;
  });

  one =
    loc: values:
    if length values == 1 || all (value: value == head values) values then
      head values
    else
      throw "The option `${showOption loc}' has conflicting definition values.";
  scalar = name: check: {
    inherit name check;
    merge = one;
  };
  isAbsolute = value: isPath value || (isString value && hasPrefix "/" value) || isDerivation value;

  types = rec {
    bool = scalar "boolean" isBool;
    int = scalar "signed integer" isInt;
    float = scalar "floating point number" isFloat;
    str = scalar "string" isString;
    nonEmptyStr = scalar "non-empty string" (
      value: isString value && match "[[:space:]]*" value == null
    );
    lines = str // {
      merge = _: concatStringsSep "\n";
    };
    port = scalar "16 bit unsigned integer" (value: isInt value && value >= 0 && value <= 65535);
    path = scalar "absolute path" isAbsolute;
    externalPath = scalar "absolute path not in the Nix store" (
      value: isString value && hasPrefix "/" value && !(hasPrefix builtins.storeDir value)
    );
    package = scalar "package" isDerivation;
    anything = scalar "anything" (_: true);
    raw = anything;
    enum = values: scalar "one of ${builtins.toJSON values}" (value: elem value values);
    nullOr = inner: {
      name = "null or ${inner.name}";
      check = value: value == null || inner.check value;
      merge = loc: values: if all (value: value == null) values then null else inner.merge loc values;
    };
    either = a: b: {
      name = "${a.name} or ${b.name}";
      check = value: a.check value || b.check value;
      merge = loc: values: if all a.check values then a.merge loc values else b.merge loc values;
    };
    oneOf = options: foldl' either (head options) (builtins.tail options);
    listOf = inner: {
      name = "list of ${inner.name}";
      check = isList;
      merge =
        loc: values:
        concatMap (element: map (d: mergeDefinitions loc inner [ d ]) (discharge 100 element)) (
          concatLists values
        );
    };
    attrsOf = inner: {
      name = "attribute set of ${inner.name}";
      check = isAttrs;
      merge =
        loc: values:
        let
          definitionsOf = name: concatMap (value: optional (hasAttr name value) value.${name}) values;
          names = filter (name: concatMap (discharge 100) (definitionsOf name) != [ ]) (
            unique (concatMap attrNames values)
          );
        in
        genAttrs names (name: mergeDefinitions (loc ++ [ name ]) inner (plain (definitionsOf name)));
    };
    submodule = module: {
      name = "submodule";
      getSubOptions =
        prefix:
        (evalModules {
          modules = [ module ];
          inherit prefix;
          specialArgs.name = "<name>";
        }).options;
      check = value: isAttrs value || isFunction value || isPath value;
      merge =
        loc: values:
        (evalModules {
          modules = [ module ] ++ values;
          prefix = loc;
          specialArgs.name = last loc;
        }).config;
    };
    deferredModule = {
      name = "module";
      check = value: isAttrs value || isFunction value || isPath value;
      merge = _: values: { imports = values; };
    };
  };

  # A module as a set of its parts. What has neither `config` nor `options` is all configuration.
  parts =
    args: module:
    let
      called =
        if isPath module then
          parts args (import module)
        else if isFunction module then
          parts args (module args)
        else
          module;
      known = [
        "_file"
        "imports"
        "options"
        "config"
        "freeformType"
        "key"
      ];
    in
    if isPath module || isFunction module then
      called
    else if module ? config || module ? options then
      {
        imports = module.imports or [ ];
        options = module.options or { };
        config = module.config or { };
        freeformType = module.freeformType or null;
      }
    else
      {
        imports = module.imports or [ ];
        options = { };
        config = removeAttrs module known;
        freeformType = module.freeformType or null;
      };

  # All modules, those that others import with them, each file once.
  collect =
    args: modules:
    let
      step =
        found: module:
        if isPath module && elem (toString module) found.paths then
          found
        else
          let
            here = parts args module;
            seen = found // {
              paths = found.paths ++ optional (isPath module) (toString module);
            };
          in
          foldl' step (seen // { parts = [ here ] ++ seen.parts; }) here.imports;
    in
    # The last one first, which is the order that lists are joined in.
    (foldl' step {
      paths = [ ];
      parts = [ ];
    } modules).parts;

  joinOptions =
    loc: sets:
    genAttrs (unique (concatMap attrNames sets)) (
      name:
      let
        found = concatMap (set: optional (hasAttr name set) set.${name}) sets;
      in
      if property "option" (head found) then
        if length found == 1 then
          head found
        else
          throw "The option `${showOption (loc ++ [ name ])}' is declared twice."
      else
        joinOptions (loc ++ [ name ]) found
    );

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
    }:
    let
      args = specialArgs // {
        inherit lib config options;
      };
      all = collect args modules;
      options = joinOptions prefix (map (part: part.options) all);
      freeform = filter (type: type != null) (map (part: part.freeformType) all);

      evaluate =
        loc: declared: definitions:
        let
          sets = concatMap pushDown definitions;
          of = name: concatMap (set: optional (hasAttr name set) set.${name}) sets;
          unknown = filter (name: !(hasAttr name declared)) (unique (concatMap attrNames sets));
          undeclared = plain (map (set: removeAttrs set (attrNames declared)) sets);
          known = mapAttrs (
            name: option:
            if property "option" option then
              mergeDefinitions (loc ++ [ name ]) option.type (
                plain (of name)
                ++ optional (option ? default) {
                  priority = 1500;
                  value = option.default;
                }
              )
            else
              evaluate (loc ++ [ name ]) option (of name)
          ) declared;
        in
        if unknown == [ ] then
          known
        else if freeform == [ ] then
          throw "The option `${showOption (loc ++ [ (head unknown) ])}' does not exist."
        else
          known // mergeDefinitions loc (head freeform) undeclared;

      config = evaluate prefix options (map (part: part.config) all);
    in
    {
      inherit config options;
    };

  lib = {
    inherit
      any
      attrNames
      attrValues
      concatMap
      concatMapStrings
      concatStringsSep
      elem
      evalModules
      filter
      filterAttrs
      genAttrs
      getExe
      hasPrefix
      isDerivation
      mapAttrs
      mapAttrsToList
      mkDefault
      mkEnableOption
      mkForce
      mkIf
      mkMerge
      mkOption
      mkOverride
      mkPackageOption
      nameValuePair
      optional
      optionalAttrs
      optionalString
      optionals
      showOption
      types
      unique
      ;
    literalExpression = text: {
      _type = "literalExpression";
      inherit text;
    };
    literalMD = text: {
      _type = "literalMD";
      inherit text;
    };
  };
in
lib
